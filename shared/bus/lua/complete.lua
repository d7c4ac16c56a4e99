-- KEYS: stream, attempts, then what is written. ARGV: group, consumer, id, attempt, then what is written.
local group, consumer, id, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not owned(KEYS[1], KEYS[2], group, consumer, id, attempt) then
  return {'late'}
end
local wrong = check_writes(3, 5)
if wrong then
  return wrong
end
remove(KEYS[1], KEYS[2], group, id)
write(3, 5)
return {'ok'}
