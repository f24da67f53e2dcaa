-- Removes a session for its own browser: a logout, or a login that replaces the session. It leaves
-- no tombstone.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index; absent for an anonymous session
-- ARGV[1]  the record as it was loaded; empty to remove the record also if it has changed
-- ARGV[2]  the session's id
-- ARGV[3]  the hash of the secret that must open the record, which must be anonymous; or empty
--
-- Returns {server time in ms,
--          1 if the session is gone, 0 if it stays because it has changed,
--          the record that was removed or that stays, or false if there was none}

local now = server_time()
local current = read(KEYS[1])

-- A tombstone is not removed: it stops a repeated create from bringing the session back.
if current and is_tombstone(current) then
  current = false
end
if current and ARGV[1] ~= '' and current ~= ARGV[1] then
  return {now, 0, current}
end
if current and ARGV[3] ~= '' then
  local decoded, fields = pcall(cjson.decode, current)
  local is_record = decoded and type(fields) == 'table'
  if not is_record or fields.user ~= nil or fields.secret ~= ARGV[3] then
    return {now, 0, false}
  end
end

if KEYS[2] then
  redis.call('ZREM', KEYS[2], ARGV[2])
end
if current then
  redis.call('UNLINK', KEYS[1])
end

return {now, 1, current}
