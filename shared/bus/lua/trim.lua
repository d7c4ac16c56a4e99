-- Drop what was handed out and acknowledged: everything below the lowest pending entry, or up to the newest
-- that was handed out. KEYS: stream. ARGV: group. Returns how many entries were dropped.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1])
if pending[1] > 0 then
  return redis.call('XTRIM', KEYS[1], 'MINID', '=', pending[2])
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local fields = {}
  for i = 1, #info, 2 do
    fields[info[i]] = info[i + 1]
  end
  if fields['name'] == ARGV[1] then
    local ms, sequence = string.match(fields['last-delivered-id'], '(%d+)-(%d+)')
    return redis.call('XTRIM', KEYS[1], 'MINID', '=', ms .. '-' .. string.format('%.0f', sequence + 1))
  end
end
return 0
