-- Put before every script. Checks return nil or a table {word, details...}; they never write.

-- Whether an entry is with this consumer, in this attempt: a stalled twin has an older attempt.
local function owned(stream, attempts, group, consumer, id, attempt)
  local found = redis.pcall('XPENDING', stream, group, id, id, 1)
  if found.err or #found == 0 or found[1][2] ~= consumer then
    return false
  end
  return redis.call('HGET', attempts, id) == attempt
end

local function wrong_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= wanted then
    return {'type', key, wanted, found}
  end
end

-- A queue is there when its stream has a group; what is published without one might be read by nobody.
local function no_queue(stream)
  local wrong = wrong_type(stream, 'stream')
  if wrong then
    return wrong
  end
  if redis.call('EXISTS', stream) == 0 or #redis.call('XINFO', 'GROUPS', stream) == 0 then
    return {'noqueue', stream}
  end
end

-- Outgoing messages and payloads: from KEYS[key] on M streams and P hashes; from ARGV[arg] on M, P, then
-- M envelopes, then P pairs of field and bytes.
local function check_writes(key, arg)
  local messages, payloads = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
  for i = key, key + messages - 1 do
    local wrong = no_queue(KEYS[i])
    if wrong then
      return wrong
    end
  end
  for i = key + messages, key + messages + payloads - 1 do
    local wrong = wrong_type(KEYS[i], 'hash')
    if wrong then
      return wrong
    end
  end
end

local function write(key, arg)
  local messages, payloads = tonumber(ARGV[arg]), tonumber(ARGV[arg + 1])
  for i = 0, payloads - 1 do
    local pair = arg + 2 + messages + 2 * i
    redis.call('HSETNX', KEYS[key + messages + i], ARGV[pair], ARGV[pair + 1])
  end
  for i = 0, messages - 1 do
    redis.call('XADD', KEYS[key + i], '*', 'm', ARGV[arg + 2 + i])
  end
end

-- Field of `attempts` with the consumers that handed an entry over, one a line.
local function refusals(id)
  return id .. ':refused'
end

local function remove(stream, attempts, group, id)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
  redis.call('HDEL', attempts, id, refusals(id))
end
