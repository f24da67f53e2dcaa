-- Ends some of a user's sessions from outside. What is left under each key says why, holds no
-- data, and lives no longer than the session would have.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the sessions' records
-- ARGV[1]     what is to be left of each: {"ended":"…"}
-- ARGV[2...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each key the record ended, or false if there was none},
--          {the ids left in the index}}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended = {}

for i = 2, #KEYS do
  local held = redis.pcall('GET', KEYS[i])
  local left = redis.call('PTTL', KEYS[i])
  if type(held) == 'string' and string.sub(held, 1, 9) ~= '{"ended":' then
    -- With memory full a SET is refused unless the script has written before.
    redis.call('UNLINK', KEYS[i])
    if left > 0 then
      redis.call('SET', KEYS[i], ARGV[1], 'PX', left)
    end
    ended[i - 1] = held
  else
    ended[i - 1] = false
  end
  redis.call('ZREM', KEYS[1], ARGV[i])
end

return {now, ended, redis.call('ZRANGE', KEYS[1], 0, -1)}
