-- Ends some of a user's sessions from outside. It leaves a tombstone with the reason in place of
-- each record.
--
-- KEYS[1...]  the sessions' records, and the user's index as the last key; without the index if the
--             caller removes the entries itself
-- ARGV[1]     the reason that the tombstones give
-- ARGV[2]     the record that a session must still have to be ended; empty for any
-- ARGV[3...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each record key: the record that was ended without its data, or
--          false},
--          {the ids left in the index}}

local now = server_time()
local count = #ARGV - 2
local has_index = KEYS[count + 1] ~= nil
local ended = {}

for i = 1, count do
  local id, current = ARGV[i + 2], read_head(KEYS[i])
  ended[i] = false
  if not current or is_tombstone(current) then
    if has_index then
      remove_from_index(KEYS[count + 1], id)
    end
  elseif ARGV[2] == '' or ARGV[2] == read(KEYS[i]) then
    replace_by_tombstone(KEYS[i], current, ARGV[1], KEYS[count + 1], id)
    ended[i] = without_data(current)
  end
end

return {now, ended, has_index and ids_in(KEYS[count + 1]) or {}}
