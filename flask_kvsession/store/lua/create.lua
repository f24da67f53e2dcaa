-- Creates a session and enters it in its user's index. If the reply to a first attempt was lost, a
-- second attempt changes nothing, and does not bring back a session that was ended meanwhile.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index; absent for an anonymous session
-- ARGV[1]  the record
-- ARGV[2]  the record's lifetime, ms
-- ARGV[3]  the session's id
-- ARGV[4]  the number of sessions that the user may have; 0 for any number
--
-- Returns {server time in ms, 1 if the session is stored, 0 if it was ended meanwhile,
--          {the ids of all the user's sessions, if they are more than the limit}}

local now = server_time()
local over_limit = {}

-- GET and not read(): if the key has another type, the script must fail.
local current = redis.call('GET', KEYS[1])
if current and current ~= ARGV[1] then
  return {now, 0, over_limit}
end

write_session(KEYS[1], ARGV[1], ARGV[2], KEYS[2], ARGV[3], now)

local limit = tonumber(ARGV[4])
if KEYS[2] and limit > 0 and redis.call('ZCARD', KEYS[2]) > limit then
  over_limit = redis.call('ZRANGE', KEYS[2], 0, -1)
end

return {now, 1, over_limit}
