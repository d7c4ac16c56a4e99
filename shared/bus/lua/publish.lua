-- KEYS: stream. ARGV: envelope.
local wrong = no_queue(KEYS[1])
if wrong then
  return wrong
end
return {'ok', redis.call('XADD', KEYS[1], '*', 'm', ARGV[1])}
