-- KEYS: lease. ARGV: holder, token.
if redis.call('GET', KEYS[1]) == ARGV[2] .. ':' .. ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
