-- Ends some of a user's sessions from outside. It leaves a tombstone with the reason in place of
-- each record.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the sessions' records
-- ARGV[1]     the reason that the tombstones give
-- ARGV[2]     the record that a session must still have to be ended; empty for any
-- ARGV[3...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each record key: the record that was ended, or false},
--          {the ids left in the index}}

local now = server_time()
local ended = {}

for i = 2, #KEYS do
  local id, current = ARGV[i + 1], read(KEYS[i])
  ended[i - 1] = false
  if not current or is_tombstone(current) then
    redis.call('ZREM', KEYS[1], id)
  elseif ARGV[2] == '' or ARGV[2] == current then
    replace_by_tombstone(KEYS[i], current, ARGV[1], KEYS[1], id)
    ended[i - 1] = current
  end
end

return {now, ended, redis.call('ZRANGE', KEYS[1], 0, -1)}
