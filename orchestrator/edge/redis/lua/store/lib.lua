-- lib: what every command of the workers' store shares: the fence and the lives of keys. The loader puts it before each.
--
-- A round's keys have its number and its token in their names, so that no round can see another's. All keys have the
-- run's hash tag, so that they share a slot of a cluster.
-- KEYS[1]   group    hash    state, round, token, ...: the agents' record, see ../lib.lua; only read
-- KEYS[2]   events   stream  of the group, which tells when the round ends; only read
-- KEYS[3]   values   hash    key -> value
--
-- ARGV[1]   round    ARGV[2]   token    of the worker that calls
--
-- Replies that several commands share:
--   {"ended", state, round}      the worker's round is over, and what the group does now; nothing was read or changed
--   {"lost"}                     the round stands, but the server has lost what its workers had shared; as above
--   {"missing", key, cursor}     wait for an entry in the key's wake stream, or for a later one than cursor in events

local call = redis.call
local GROUP, EVENTS, VALUES = KEYS[1], KEYS[2], KEYS[3]
-- Values live for a day after their last use. A wake stream has done its duty when those who wait have seen it; who
-- comes later finds the value, and who was asleep for so long looks for the value before the minute is over.
local VALUES_TTL_MS, WAKE_TTL_MS = 86400000, 60000
local my_round, my_token = tonumber(ARGV[1]), tonumber(ARGV[2])

local function text(value, limit, what)
  return #value <= limit and value or error('BADARG ' .. what .. ' is longer than ' .. limit .. ' bytes')
end

-- nil while the caller's round stands, else the reply that refuses it. A server that has lost its memory may hear of
-- the round yet, from its agents, so the caller shall come again.
local function ended()
  local r = call('HMGET', GROUP, 'state', 'round', 'token')
  local ours = tonumber(r[2]) == my_round and tonumber(r[3]) == my_token
  if r[1] == 'settled' and ours then return nil end
  if r[1] == 'restoring' and ours or r[1] ~= 'closed' and tonumber(r[2] or 0) < my_round then
    return redis.error_reply('TRYAGAIN the server does not know round ' .. my_round .. ' yet, or no longer')
  end
  return {'ended', r[1] or 'unknown', tonumber(r[2] or 0)}
end

-- The same for values, which such a server has lost: one that is set anew would be taken for the old one.
local function gone()
  return ended() or call('HEXISTS', GROUP, 'restored') == 1 and {'lost'} or nil
end

local function missing(key)
  local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
  return {'missing', key, last and last[1] or '0-0'}
end

local function wake(stream)
  call('XADD', stream, 'MAXLEN', 1, '*', 'there', '1')
  call('PEXPIRE', stream, WAKE_TTL_MS)
end

-- The end of every command: no key of ours outlives its use, and no stale worker prolongs one.
local function finish(reply, ...)
  if reply.err or reply[1] == 'ended' or reply[1] == 'lost' then return reply end
  for _, key in ipairs({VALUES, ...}) do call('PEXPIRE', key, VALUES_TTL_MS) end
  return reply
end
