-- Finds the entries of a user's index whose session is not there, and removes them.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the records of the sessions in the index
-- ARGV[1]     1 to remove the entries; 0 to count them only
-- ARGV[2...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, the number of entries without a session}

local now = server_time()
local found = 0

for i = 2, #KEYS do
  local current = read_head(KEYS[i])
  if not current or is_tombstone(current) then
    found = found + 1
    if ARGV[1] == '1' then
      remove_from_index(KEYS[1], ARGV[i])
    end
  end
end

return {now, found}
