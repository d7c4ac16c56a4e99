-- KEYS: lease, token, line (a sorted set), asked (a hash). ARGV: holder, time to live in ms. Returns the new token, or
-- nil while it is held, or others came first. Who has not asked for a time to live has left.
local holder, ttl = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
for _, other in ipairs(redis.call('ZRANGE', KEYS[3], 0, -1)) do
  if other ~= holder and now - tonumber(redis.call('HGET', KEYS[4], other) or '0') > ttl then
    redis.call('ZREM', KEYS[3], other)
    redis.call('HDEL', KEYS[4], other)
  end
end
if not redis.call('ZSCORE', KEYS[3], holder) then
  local last = redis.call('ZRANGE', KEYS[3], -1, -1, 'WITHSCORES')
  redis.call('ZADD', KEYS[3], tonumber(last[2] or '0') + 1, holder)
end
redis.call('HSET', KEYS[4], holder, string.format('%.0f', now))
local found = redis.call('GET', KEYS[1])
local held = found and string.match(found, '^%d+:(.*)$') ~= holder
if held or redis.call('ZRANGE', KEYS[3], 0, 0)[1] ~= holder then
  return false
end
redis.call('ZREM', KEYS[3], holder)
redis.call('HDEL', KEYS[4], holder)
local text = string.format('%.0f', tonumber(redis.call('GET', KEYS[2]) or '0') + 1)
redis.call('SET', KEYS[2], text)
redis.call('SET', KEYS[1], text .. ':' .. holder, 'PX', ARGV[2])
return tonumber(text)
