-- Writes a session's record, if it is still the one that was loaded. A session that is gone stays
-- gone: nothing here creates a record.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index, rewritten so that an evicted one heals; left out for a visitor
-- ARGV[1]  the record as it was loaded
-- ARGV[2]  the new record
-- ARGV[3]  its lifetime, ms
-- ARGV[4]  the session's id
--
-- Returns {server time in ms, 0 if it is not written, 1 if it is, 2 if it had been before,
--          the record held now, or false if it is gone}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' then
  return {now, 0, false}
end
-- A repeat whose first reply was lost, or another request did the very same in the same ms.
if held == ARGV[2] then
  return {now, 2, held}
end
if held ~= ARGV[1] then
  return {now, 0, held}
end

-- The index first, and before any cleaning: see create.lua.
if KEYS[2] then
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[4])
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])

if KEYS[2] then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[2], last[2])
end

return {now, 1, ARGV[2]}
