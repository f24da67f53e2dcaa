-- Finds a session that is not in its user's index, and enters it there.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index
-- ARGV[1]  1 to enter the session; 0 to look only
-- ARGV[2]  the session's id
--
-- Returns {server time in ms, 1 if the index does not have the session, else 0}

local now = server_time()
local current = read_head(KEYS[1])
local lifetime = redis.call('PTTL', KEYS[1])

-- The session may have ended since the caller read it. A record without a lifetime is not ours.
if not current or is_tombstone(current) or lifetime <= 0 then
  return {now, 0}
end
for _, id in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do
  if id == ARGV[2] then
    return {now, 0}
  end
end

if ARGV[1] == '1' then
  enter_in_index(KEYS[2], ARGV[2], now + lifetime, now)
end
return {now, 1}
