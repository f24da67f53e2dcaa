-- Functions that several acts use. The store sends this file before each act's own file.
--
-- A lifetime is passed to Redis as text, either unchanged from ARGV or formatted as an integer:
-- Redis 7.2.0 to 7.2.4 would write the Lua number 100000000 as 1e+8, which SET refuses.

-- The server's time, ms.
local function server_time()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The record or tombstone under a key; false for no key and for a key of another type.
local function read(key)
  local current = redis.pcall('GET', key)
  return type(current) == 'string' and current
end

-- True for the tombstone of a session that was ended from outside.
local function is_tombstone(current)
  return string.sub(current, 1, 9) == '{"ended":'
end

-- Writes a record and its entry in the user's index (nil for an anonymous session). `lifetime` is
-- the text of the number of ms.
--
-- The index is written first. If a failure allowed only one of the two writes, an index entry
-- without a record does no harm, but a record without an entry could not be listed or revoked.
-- Both writes come before the cleaning: if the memory is full, Redis refuses only the first write of
-- a script.
local function write_session(key, record, lifetime, index, id, now)
  if index then
    redis.call('ZADD', index, now + tonumber(lifetime), id)
  end
  redis.call('SET', key, record, 'PX', lifetime)
  if index then
    redis.call('ZREMRANGEBYSCORE', index, '-inf', now)
    local last = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')
    redis.call('PEXPIREAT', index, last[2])
  end
end

-- Replaces a record by a tombstone with the reason, and removes the session from the user's index.
-- The tombstone lives no longer than the session would have. It holds the hash of the family, with
-- which each record begins.
--
-- UNLINK comes before SET: with memory full, Redis refuses a SET unless the script has written
-- before.
local function replace_by_tombstone(key, record, reason, index, id)
  local family = string.match(record, '^{"v":%d+,"family":"([%w_-]+)"') or ''
  local tombstone = string.format('{"ended":"%s","family":"%s"}', reason, family)
  local lifetime = redis.call('PTTL', key)
  redis.call('UNLINK', key)
  if lifetime > 0 then
    redis.call('SET', key, tombstone, 'PX', string.format('%d', lifetime))
  end
  redis.call('ZREM', index, id)
end

