-- The answer and how far the student has come, together, under the trainer's token.
-- KEYS: token, head, results. ARGV: token, steps, answer's envelope.
local wrong = wrong_type(KEYS[1], 'string') or wrong_type(KEYS[2], 'hash') or no_queue(KEYS[3])
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
  redis.call('HSET', KEYS[2], 'steps', ARGV[2])
end
redis.call('XADD', KEYS[3], '*', 'm', ARGV[3])
return {newer and 'ok' or 'again'}
