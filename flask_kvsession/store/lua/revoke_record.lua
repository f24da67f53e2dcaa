-- Ends one session of anybody from outside, and leaves a tombstone. The entry in the user's index
-- stays: the caller does not know the user.
--
-- KEYS[1]  the session's record
-- ARGV[1]  the reason that the tombstone gives
-- ARGV[2]  1 to end an anonymous session too; 0 to leave it
--
-- Returns {server time in ms, 1 if this has ended the session, else 0}

local now = server_time()
local current = read_head(KEYS[1])

if not current or is_tombstone(current) then
  return {now, 0}
end
-- The user follows the two hashes, which contain no quotation mark.
local is_of_user = string.match(current, '^{"v":%d+,"family":"[^"]*","secret":"[^"]*","user":')
local is_anonymous = not is_of_user and string.match(current, '^{"v":%d+,"family":"[^"]*","secret":')
if is_anonymous and ARGV[2] ~= '1' then
  return {now, 0}
end

replace_by_tombstone(KEYS[1], current, ARGV[1], nil, nil)
return {now, 1}
