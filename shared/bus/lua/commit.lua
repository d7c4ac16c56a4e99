-- The broker's unit of work. Everything is checked before the first write: a script that fails midway keeps
-- what it wrote.
-- KEYS: fence, state, revision, events, ack stream, ack attempts, S serve sets, then what is written.
-- ARGV: fence, revision, state, cap of events, rebuild ('1' = any lower revision may be stored), ack group,
-- consumer, id, attempt ('' = nothing to acknowledge), S, E, S serve sets, E events, then what is written.
local fence, revision, state, cap, rebuild = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local group, consumer, id, attempt = ARGV[6], ARGV[7], ARGV[8], ARGV[9]
local serves, events = tonumber(ARGV[10]), tonumber(ARGV[11])
local first_key, first_arg = 7 + serves, 12 + serves + events

local function check_types()
  local wanted = {'string', 'string', 'string', 'stream'}
  for i = 1, 6 + serves do
    local wrong = (i < 5 or i > 6) and wrong_type(KEYS[i], wanted[i] or 'string')
    if wrong then
      return wrong
    end
  end
end

-- 'again': this very commit is stored already, and only its answer was lost.
local function check_order()
  local held = redis.call('GET', KEYS[1])
  if held ~= fence then
    return {'fence', held}
  end
  local stored = redis.call('GET', KEYS[3])
  if stored == revision and redis.call('GET', KEYS[2]) == state then
    return {'again'}
  end
  local behind = stored and tonumber(revision) - tonumber(stored)
  if behind and behind ~= 1 and not (rebuild and behind > 1) then
    return {'revision', stored}
  end
  if id ~= '' and not owned(KEYS[5], KEYS[6], group, consumer, id, attempt) then
    return {'late'}
  end
end

local wrong = check_types() or check_order() or check_writes(first_key, first_arg)
if wrong then
  return wrong
end
redis.call('SET', KEYS[2], state)
redis.call('SET', KEYS[3], revision)
for i = 1, serves do
  redis.call('SET', KEYS[6 + i], ARGV[11 + i])
end
write(first_key, first_arg)
for i = 1, events do
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', cap, '*', 'e', ARGV[11 + serves + i])
end
if id ~= '' then
  remove(KEYS[5], KEYS[6], group, id)
end
return {'ok'}
