-- KEYS: line, asked. ARGV: time to live in ms. Returns who waits, the first one first, but for those that have left.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local waiting = {}
for _, holder in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if now - tonumber(redis.call('HGET', KEYS[2], holder) or '0') <= tonumber(ARGV[1]) then
    waiting[#waiting + 1] = holder
  end
end
return waiting
