-- KEYS: lease, token. ARGV: holder, time to live in ms, floor. Returns the new token, or nil if it is held.
local found = redis.call('GET', KEYS[1])
if found and string.match(found, '^%d+:(.*)$') ~= ARGV[1] then
  return false
end
local token = math.max(tonumber(redis.call('GET', KEYS[2]) or '0'), tonumber(ARGV[3])) + 1
local text = string.format('%.0f', token)
redis.call('SET', KEYS[2], text)
redis.call('SET', KEYS[1], text .. ':' .. ARGV[1], 'PX', ARGV[2])
return token
