-- KEYS: dead letters, stream. ARGV: id of the letter, fields and values of the entry...
local wrong = no_queue(KEYS[2])
if wrong then
  return wrong
end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then
  return {'late'}
end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 2))
return {'ok'}
