-- Removes a session on behalf of its own browser (logout, or a login in its place), leaving nothing.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index; left out for a visitor
-- ARGV[1]  the record as it was loaded; empty to remove it whatever it is by now
-- ARGV[2]  the session's id
--
-- Returns {server time in ms, 1 if the session is gone, else 0 since it has changed,
--          the record removed or held now, or false if there was none}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.pcall('GET', KEYS[1])
if type(held) ~= 'string' then
  held = false
end
if held and ARGV[1] ~= '' and held ~= ARGV[1] and string.sub(held, 1, 9) ~= '{"ended":' then
  return {now, 0, held}
end

if KEYS[2] then
  redis.call('ZREM', KEYS[2], ARGV[2])
end
-- An ended session is gone already; what is left of it keeps a late create from reviving it.
if held and string.sub(held, 1, 9) ~= '{"ended":' then
  redis.call('UNLINK', KEYS[1])
else
  held = false
end

return {now, 1, held}
