-- Creates one session and enters it in its user's index. A repeated create (its first reply was
-- lost) does it once; one whose session was ended meanwhile does not bring it back.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index; left out for a visitor
-- ARGV[1]  the record
-- ARGV[2]  its lifetime, ms
-- ARGV[3]  the session's id
-- ARGV[4]  how many sessions the user may have; 0 for any number
--
-- Returns {server time in ms, 1 if the session stands, else 0,
--          {the ids of all the user's sessions, if they are more than the limit}}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over_limit = {}

local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then
  return {now, 0, over_limit}
end

-- The index first: were only one of the two written, a session that nobody can list would be the
-- worse. And a ZADD or SET before any cleaning: with memory full, only a script's first write is
-- refused.
if KEYS[2] then
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[3])
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])

if KEYS[2] then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
  local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', KEYS[2], last[2])
  local limit = tonumber(ARGV[4])
  if limit > 0 and redis.call('ZCARD', KEYS[2]) > limit then
    over_limit = redis.call('ZRANGE', KEYS[2], 0, -1)
  end
end

return {now, 1, over_limit}
