-- Ends some of a user's sessions from outside. It leaves a tombstone with the reason in place of
-- each record.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the sessions' records
-- ARGV[1]     the tombstone for each ended session
-- ARGV[2...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each record key: the record that was ended, or false},
--          {the ids left in the index}}

local now = server_time()
local ended = {}

for i = 2, #KEYS do
  local current = read(KEYS[i])
  if current and not is_tombstone(current) then
    entomb(KEYS[i], ARGV[1], KEYS[1], ARGV[i])
    ended[i - 1] = current
  else
    redis.call('ZREM', KEYS[1], ARGV[i])
    ended[i - 1] = false
  end
end

return {now, ended, redis.call('ZRANGE', KEYS[1], 0, -1)}
