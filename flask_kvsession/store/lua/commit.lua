-- Writes a session's record if the stored record is still the loaded one. It never creates a
-- record, so a session that is gone stays gone.
--
-- KEYS[1]  the session's record
-- KEYS[2]  the user's index, rewritten so that an evicted index heals; absent for an anonymous
--          session, and if the session expires when it would have expired before
-- ARGV[1]  the record as it was loaded
-- ARGV[2]  the new record
-- ARGV[3]  the new record's lifetime, ms; empty to leave it as it is
-- ARGV[4]  the session's id
--
-- Returns {server time in ms,
--          0 if the new record was not written, 1 if it was, 2 if the store already held it, 3 if it
--          was written and the index had lost the session,
--          the current record if the new one was not written; false if there is none}

local now = server_time()
local current = read(KEYS[1])

-- The store already holds the new record: the reply to an earlier attempt was lost, or another
-- request made the same change in the same ms.
if current == ARGV[2] then
  return {now, 2, false}
end
-- Another request has changed the record, or it is gone.
if current ~= ARGV[1] then
  return {now, 0, current}
end

if ARGV[3] == '' then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
  return {now, 1, false}
end
local added = write_session(KEYS[1], ARGV[2], ARGV[3], KEYS[2], ARGV[4], now)
return {now, added == 1 and 3 or 1, false}
