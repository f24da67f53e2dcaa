-- Ends a user's least recently used sessions, until no more are left than the user may have.
-- It decides anew from what the store holds now: since the caller looked, sessions may have gone,
-- been used or been added.
--
-- KEYS[1]     the user's index
-- KEYS[2...]  the records of all the user's sessions
-- ARGV[1]     what is to be left of an ended session: {"ended":"…"}
-- ARGV[2]     how many sessions the user may have
-- ARGV[3]     the id of the session that must stay: the one that has just begun
-- ARGV[4]     the id of the one whose place that takes, which does not count; empty for none
-- ARGV[5...]  the sessions' ids, in the order of their keys
--
-- Returns {server time in ms, {for each key the record ended, or false},
--          {all ids in the index, if one of them had no key: nothing is done then}}

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ended, living, known = {}, {}, {}

for i = 2, #KEYS do
  local id = ARGV[i + 3]
  local held = redis.pcall('GET', KEYS[i])
  known[id] = true
  ended[i - 1] = false
  if type(held) == 'string' and string.sub(held, 1, 9) ~= '{"ended":' then
    local read, record = pcall(cjson.decode, held)
    local seen = read and type(record) == 'table' and tonumber(record.seen) or 0
    if id ~= ARGV[4] then
      living[#living + 1] = {place = i, id = id, held = held, seen = seen}
    end
  else
    redis.call('ZREM', KEYS[1], id)
  end
end

local ids = redis.call('ZRANGE', KEYS[1], 0, -1)
for _, id in ipairs(ids) do
  if not known[id] then
    return {now, ended, ids}
  end
end

table.sort(living, function(a, b)
  if (a.id == ARGV[3]) ~= (b.id == ARGV[3]) then
    return b.id == ARGV[3]
  end
  if a.seen ~= b.seen then
    return a.seen < b.seen
  end
  return a.id < b.id
end)

for n = 1, #living - tonumber(ARGV[2]) do
  local session = living[n]
  local key = KEYS[session.place]
  local left = redis.call('PTTL', key)
  redis.call('UNLINK', key)
  if left > 0 then
    redis.call('SET', key, ARGV[1], 'PX', left)
  end
  redis.call('ZREM', KEYS[1], session.id)
  ended[session.place - 1] = session.held
end

return {now, ended, {}}
