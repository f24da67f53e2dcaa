-- Enters a session in its user's index, or removes it there, and touches no other key. The store uses
-- it while a cluster moves the slot of the user: an act on two keys is not possible then.
--
-- KEYS[1]  the user's index
-- ARGV[1]  the session's id
-- ARGV[2]  how long the session lives from now, ms; empty to remove the entry
--
-- Returns {server time in ms}

local now = server_time()

if ARGV[2] == '' then
  redis.call('ZREM', KEYS[1], ARGV[1])
else
  enter_in_index(KEYS[1], ARGV[1], now + tonumber(ARGV[2]), now)
end

return {now}
