-- Functions that several acts use. The store sends this file before each act's own file.
--
-- A lifetime is passed to Redis as text, either unchanged from ARGV or formatted as an integer:
-- Redis 7.2.0 to 7.2.4 would write the Lua number 100000000 as 1e+8, which SET refuses.

-- The server's time, ms.
local function server_time()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The text that a command has returned; false for no key and for a key of another type. Any other
-- error ends the script: a command that the access rules forbid must not look like "no session".
local function text_of(reply)
  if type(reply) == 'table' and reply.err and not string.find(reply.err, 'WRONGTYPE', 1, true) then
    error(reply.err)
  end
  return type(reply) == 'string' and reply
end

-- The record or tombstone under a key; false for no key and for a key of another type.
local function read(key)
  return text_of(redis.pcall('GET', key))
end

-- The first 1,024 bytes of a record or tombstone, or all of it if the data begin later; false for no
-- key and for a key of another type. A session may have 64 kB of data, and an act that needs only
-- the facts of 1,000 sessions must not copy all of them: every other client waits for it.
local function read_head(key)
  local head = text_of(redis.pcall('GETRANGE', key, 0, 1023))
  if not head or head == '' then
    return false
  end
  if #head < 1024 or string.find(head, ',"data":{', 1, true) then
    return head
  end
  return read(key)
end

-- The record of a head, without data. The text that it looks for cannot be part of a value: JSON
-- writes a quotation mark in a value as \".
local function without_data(head)
  local start = string.find(head, ',"data":{', 1, true)
  return start and string.format('%s"data":{}}', string.sub(head, 1, start)) or head
end

-- True for the tombstone of a session that was ended from outside.
local function is_tombstone(current)
  return string.sub(current, 1, 9) == '{"ended":'
end

-- Enters a session in its user's index, removes what has expired there, and lets the index live as
-- long as the last session. Returns the number of entries that this has added: 0 or 1.
local function enter_in_index(index, id, expires, now)
  local added = redis.call('ZADD', index, expires, id)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
  local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')
  redis.call('PEXPIREAT', index, last[2])
  return added
end

-- Writes a record and its entry in the user's index (nil for an anonymous session). `lifetime` is
-- the text of the number of ms. Returns 1 if the index did not have the session, else 0.
--
-- The index is written first. If a failure allowed only one of the two writes, an index entry
-- without a record does no harm, but a record without an entry could not be listed or revoked. If
-- the memory is full, Redis refuses only the first write of a script.
local function write_session(key, record, lifetime, index, id, now)
  local added = 0
  if index then
    added = enter_in_index(index, id, now + tonumber(lifetime), now)
  end
  redis.call('SET', key, record, 'PX', lifetime)
  return added
end

-- Removes a session from its user's index.
--
-- While a cluster moves the slot, a key that a script has emptied is taken for one that has moved. So
-- once the last entry is removed, the index is "non local" for the rest of the script.
local function remove_from_index(index, id)
  local reply = redis.pcall('ZREM', index, id)
  if type(reply) == 'table' and reply.err and not string.find(reply.err, 'non local key', 1, true) then
    error(reply.err)
  end
end

-- The ids in an index; none if the script has emptied it.
local function ids_in(index)
  local reply = redis.pcall('ZRANGE', index, 0, -1)
  if reply.err and not string.find(reply.err, 'non local key', 1, true) then
    error(reply.err)
  end
  return reply.err and {} or reply
end

-- Replaces a record by a tombstone with the reason, and removes the session from the user's index
-- (nil if the caller removes it itself).
-- The tombstone lives no longer than the session would have. It holds the hash of the family, with
-- which each record begins.
--
-- If the memory is full, Redis refuses a SET unless the script has written before. UNLINK is not used
-- in any case: while a cluster moves the slot, the key would then be taken for one that has moved.
local function replace_by_tombstone(key, record, reason, index, id)
  local family = string.match(record, '^{"v":%d+,"family":"([%w_-]+)"') or ''
  local tombstone = string.format('{"ended":"%s","family":"%s"}', reason, family)
  local lifetime = redis.call('PTTL', key)
  if lifetime > 0 then
    local reply = redis.pcall('SET', key, tombstone, 'PX', string.format('%d', lifetime))
    if reply.err then
      redis.call('UNLINK', key)
      redis.call('SET', key, tombstone, 'PX', string.format('%d', lifetime))
    end
  else
    redis.call('UNLINK', key)
  end
  if index then
    remove_from_index(index, id)
  end
end

