-- Ends a user's least recently used sessions beyond the limit. It reads the current records: since
-- the caller read the index, sessions may have begun, been used or ended.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the records of all the user's sessions
-- ARGV[1]     the reason that the tombstones give
-- ARGV[2]     the number of sessions that the user may have
-- ARGV[3]     the id of the newest session, which stays
-- ARGV[4]     the id of the session that the newest one replaces; it does not count. Or empty
-- ARGV[5...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each record key: the record that was ended without its data, or
--          false},
--          {all ids in the index, if one of them has no key here; then no session was ended}}

local now = server_time()
local ended, active, known = {}, {}, {}

for i = 2, #KEYS do
  local id = ARGV[i + 3]
  local current = read_head(KEYS[i])
  known[id] = true
  ended[i - 1] = false
  if current and not is_tombstone(current) then
    local seen = tonumber(string.match(current, '"seen":(%d+)') or 0)
    if id ~= ARGV[4] then
      active[#active + 1] = {place = i, id = id, record = current, seen = seen}
    end
  else
    remove_from_index(KEYS[1], id)
  end
end

local ids = ids_in(KEYS[1])
for _, id in ipairs(ids) do
  if not known[id] then
    return {now, ended, ids}
  end
end

-- The least recently used first, the newest session last.
table.sort(active, function(a, b)
  if (a.id == ARGV[3]) ~= (b.id == ARGV[3]) then
    return b.id == ARGV[3]
  end
  if a.seen ~= b.seen then
    return a.seen < b.seen
  end
  return a.id < b.id
end)

for n = 1, #active - tonumber(ARGV[2]) do
  local session = active[n]
  replace_by_tombstone(KEYS[session.place], session.record, ARGV[1], KEYS[1], session.id)
  ended[session.place - 1] = without_data(session.record)
end

return {now, ended, {}}
