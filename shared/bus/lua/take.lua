-- Own pending entries that are not held, then entries whose lease ran out, then new ones, up to a limit. Held ones whose
-- lease ran out are renewed.
-- KEYS: stream, attempts. ARGV: group, consumer, limit, lease in ms, held ids...
-- Returns the newest id handed out of this stream and {id, attempt, fields, who refused it} for each entry.
local stream, attempts = KEYS[1], KEYS[2]
local group, consumer, limit, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local held = {}
for i = 5, #ARGV do
  held[ARGV[i]] = true
end

local function last_delivered()
  if redis.call('EXISTS', stream) == 1 then
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local fields = {}
      for i = 1, #info, 2 do
        fields[info[i]] = info[i + 1]
      end
      if fields['name'] == group then
        return fields['last-delivered-id']
      end
    end
  end
end

-- After a restart without data there is no group: make it again, at the first entry.
if not last_delivered() then
  redis.call('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
end

local taken = {}
local function hand_out(entries)
  for _, entry in ipairs(entries) do
    local attempt = redis.call('HINCRBY', attempts, entry[1], 1)
    taken[#taken + 1] = {entry[1], attempt, entry[2], redis.call('HGET', attempts, refusals(entry[1])) or ''}
  end
end

-- XPENDING and XCLAIM, not XREADGROUP from 0: that would renew the leases of the held entries it passes.
local own = redis.call('XPENDING', stream, group, '-', '+', limit + #ARGV - 4, consumer)
local in_hand = {}
for _, pending in ipairs(own) do
  if held[pending[1]] then
    in_hand[pending[1]] = true
  elseif #taken < limit then
    hand_out(redis.call('XCLAIM', stream, group, consumer, 0, pending[1]))
  end
end

local cursor = '0-0'
while #taken < limit do
  local claimed = redis.call('XAUTOCLAIM', stream, group, consumer, lease_ms, cursor, 'COUNT', limit - #taken)
  -- Nobody took these since, so by claiming they are renewed, as renew.lua does it: handed out once more, each attempt
  -- would end the one before. One that is held and lay with another is a new attempt.
  local lapsed = {}
  for _, entry in ipairs(claimed[2]) do
    if not in_hand[entry[1]] then
      lapsed[#lapsed + 1] = entry
    end
  end
  hand_out(lapsed)
  cursor = claimed[1]
  if cursor == '0-0' then
    break
  end
end

if #taken < limit then
  local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', limit - #taken, 'STREAMS', stream, '>')
  if new then
    hand_out(new[1][2])
  end
end
return {last_delivered(), taken}
