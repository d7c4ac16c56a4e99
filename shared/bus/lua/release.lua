-- Give an entry to nobody, long expired, so that the next who asks takes it; the attempt does not count.
-- KEYS: stream, attempts. ARGV: group, consumer, id, attempt, nobody's name.
local group, consumer, id, attempt, nobody = unpack(ARGV)
local DAY_MS = 86400000
if not owned(KEYS[1], KEYS[2], group, consumer, id, attempt) then
  return 0
end
redis.call('XCLAIM', KEYS[1], group, nobody, 0, id, 'IDLE', DAY_MS, 'JUSTID')
redis.call('HINCRBY', KEYS[2], id, -1)
return 1
