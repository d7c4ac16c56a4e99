-- Give an entry to another consumer, which takes it as one of its own; the attempt does not count. Its lease begins
-- anew: should that consumer never take it, it is stolen like any other.
-- KEYS: stream, attempts. ARGV: group, consumer, id, attempt, the other consumer.
local group, consumer, id, attempt, other = unpack(ARGV)
if not owned(KEYS[1], KEYS[2], group, consumer, id, attempt) then
  return 0
end
local found = redis.call('HGET', KEYS[2], refusals(id))
if not found then
  found = consumer
elseif not string.find('\n' .. found .. '\n', '\n' .. consumer .. '\n', 1, true) then
  found = found .. '\n' .. consumer
end
redis.call('HSET', KEYS[2], refusals(id), found)
redis.call('XCLAIM', KEYS[1], group, other, 0, id, 'JUSTID')
redis.call('HINCRBY', KEYS[2], id, -1)
return 1
