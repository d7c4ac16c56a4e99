-- KEYS: stream, attempts, dead letters, then what is written.
-- ARGV: group, consumer, id, attempt, queue, reason, then what is written.
local group, consumer, id, attempt, queue, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if not owned(KEYS[1], KEYS[2], group, consumer, id, attempt) then
  return {'late'}
end
local wrong = wrong_type(KEYS[3], 'stream') or check_writes(4, 7)
if wrong then
  return wrong
end
local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
local letter = {'queue', queue, 'reason', reason, 'deliveries', attempt}
if entry then
  for i = 1, #entry[2], 2 do
    letter[#letter + 1] = 'field:' .. entry[2][i]
    letter[#letter + 1] = entry[2][i + 1]
  end
end
redis.call('XADD', KEYS[3], '*', unpack(letter))
remove(KEYS[1], KEYS[2], group, id)
write(4, 7)
return {'ok'}
