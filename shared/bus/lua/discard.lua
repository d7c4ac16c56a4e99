-- Drop entries, in whosever hands they are. KEYS: fence, stream, attempts. ARGV: fence, group, ids...
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  return {'fence', held}
end
for i = 3, #ARGV do
  remove(KEYS[2], KEYS[3], ARGV[2], ARGV[i])
end
return {'ok'}
