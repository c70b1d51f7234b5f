-- join: take part in the coming round. Whoever is in already gets the same answer again.
--
-- KEYS       all keys of the group, see lib.lua
-- ARGV[1-16] the caller, its claim and the group's rules, see lib.lua
-- ARGV[17]   nproc    ARGV[18] addr    ARGV[19] port (of this agent, should it get slot 0)    ARGV[20] rank hint (-1: none)
-- returns    {cursor, reply}: the stream's last id before this command, and
--            seat | waiting | closed | {"held", holder, ms_left}

local bid = {
  nproc = number(ARGV[17], 0, 'nproc'), addr = text(ARGV[18], 255, 'addr'), port = number(ARGV[19], 0, 'port'),
}
local NEWCOMER, HINTED = 1e9, 1e7 -- priorities: slots are smaller than both
local hint = number(ARGV[20], -1, 'hint')

-- A server that knows no slots orders its first round by what is claimed, then by hint, then by arrival.
local function priority(arrival)
  local slot = tonumber(call('HGET', SLOTS, name) or -1)
  if slot >= 0 then return slot end
  if call('EXISTS', SLOTS) == 1 then return NEWCOMER + arrival end
  if claim.slot >= 0 and claim.slot < HINTED then return claim.slot + arrival / HINTED end
  return hint >= 0 and hint < HINTED and HINTED + hint + arrival / HINTED or NEWCOMER + arrival
end

-- What a server that has lost its memory, or knows less than we do, learns from the claim.
local function adopt()
  set('high_round', math.max(num('high_round'), claim.round), 'high_token', math.max(num('high_token'), claim.token),
    'charged', math.max(num('charged'), claim.charged))
  call('HSETNX', GROUP, 'state', 'open')
end

local function enter()
  call('HSET', NONCES, name, nonce)
  call('HSET', BIDS, name, cjson.encode(bid))
  if waits() then return end
  call('ZADD', WAITING, priority(call('HINCRBY', GROUP, 'arrivals', 1)), name)
  set('last_join', now, 'last_joiner', name)
  if call('SREM', ABSENT, name) == 1 then call('SADD', BACK, name) end
  if is('settled') and num('size') < max then call('HSETNX', GROUP, 'scale_at', now + scale_up_ms) end
end

local function join()
  if is('closed') then return closed() end
  local holder = call('HGET', NONCES, name)
  if holder and holder ~= nonce then
    local left = tonumber(call('ZSCORE', LEASES, name)) - now
    return {'held', cjson.decode(call('HGET', BIDS, name)).addr .. ' (agent ' .. holder .. ')', left}
  end
  -- Asking for a round beyond the settled one in which we sit: our workers are gone, so that one is over.
  if seated() and claim.round >= num('round') then supersede('node ' .. name .. ' left the round') end
  if is('closed') then return closed() end
  adopt()
  prolong()
  if not seated() then enter() end
  progress()
  return place()
end

tick()
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
return finish({last and last[1] or '0-0', join()})
