-- KEYS: lease, token. ARGV: holder, time to live in ms, token. A lease that ran out and that nobody took since
-- is renewed as well: its token is still the newest.
local mine = ARGV[3] .. ':' .. ARGV[1]
local found = redis.call('GET', KEYS[1])
if redis.call('GET', KEYS[2]) ~= ARGV[3] or (found and found ~= mine) then
  return 0
end
redis.call('SET', KEYS[1], mine, 'PX', ARGV[2])
return 1
