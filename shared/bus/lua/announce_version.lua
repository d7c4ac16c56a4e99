-- Head, log and answer together, under the trainer's token.
-- KEYS: token, head, log, results. ARGV: token, steps, version as JSON, answer's envelope, cap of the log.
local wrong = wrong_type(KEYS[1], 'string') or wrong_type(KEYS[2], 'hash') or wrong_type(KEYS[3], 'stream')
  or no_queue(KEYS[4])
if wrong then
  return wrong
end
local held = redis.call('GET', KEYS[1])
if held ~= ARGV[1] then
  return {'fence', held}
end
local head = redis.call('HGET', KEYS[2], 'steps')
local newer = not head or tonumber(head) < tonumber(ARGV[2])
if newer then
  redis.call('HSET', KEYS[2], 'steps', ARGV[2], 'version', ARGV[3])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'm', ARGV[3])
end
redis.call('XADD', KEYS[4], '*', 'm', ARGV[4])
return {newer and 'ok' or 'again'}
