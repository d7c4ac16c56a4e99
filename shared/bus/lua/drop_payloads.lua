-- Drop a payload hash, unless another broker took over, which may be filling it. KEYS: fence, payloads. ARGV: fence.
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  return {'fence', held}
end
redis.call('UNLINK', KEYS[2])
return {'ok'}
