-- KEYS: stream and attempts of each delivery. ARGV: group, consumer, id, attempt of each.
-- Returns the positions (from 0) of those that are still with their consumer.
local kept = {}
for i = 0, #KEYS / 2 - 1 do
  local stream, attempts = KEYS[2 * i + 1], KEYS[2 * i + 2]
  local group, consumer, id, attempt = ARGV[4 * i + 1], ARGV[4 * i + 2], ARGV[4 * i + 3], ARGV[4 * i + 4]
  if owned(stream, attempts, group, consumer, id, attempt) then
    if #redis.call('XCLAIM', stream, group, consumer, 0, id, 'JUSTID') > 0 then
      kept[#kept + 1] = i
    end
  end
end
return kept
