-- join: take part in the coming round. Whoever is in already gets the same answer again.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   nproc    ARGV[22] addr    ARGV[23] port (of this agent, should it get slot 0)    ARGV[24] rank hint (-1: none)
-- ARGV[25]   ledger of charges, see lib/
-- returns    {cursor, reply}: the stream's last id before this command, and
--            seat | waiting | closed | {"held", holder, ms_left} | {"refused", why}

local bid = {
  nproc = number(ARGV[21], 0, 'nproc'), addr = text(ARGV[22], 255, 'addr'), port = number(ARGV[23], 0, 'port'),
}
local NEWCOMER, HINTED = 1e9, 1e7 -- priorities: slots are smaller than both
local hint, carried = number(ARGV[24], -1, 'hint'), text(ARGV[25], 65536, 'ledger')

-- Slots that are known go first; the first round of all is ordered by hints, then by arrival.
local function priority(arrival)
  local slot = tonumber(call('HGET', SLOTS, name) or -1)
  if slot >= 0 then return slot end
  if num('round') > 0 or hint < 0 or hint >= HINTED then return NEWCOMER + arrival end
  return HINTED + hint + arrival / HINTED
end

-- Asking for a round beyond the one in which we sit: our workers are gone, so that one is over.
local function give_up_seat()
  if not (claims_seat() and (seated() or is('restoring'))) then return end
  local others = call('HLEN', SEATS) - (has_seat(name) and 1 or 0)
  supersede('node ' .. name .. ' left the round', nil, is('restoring') and others == 0)
end

local function enter()
  write('HSET', NONCES, name, nonce)
  write('HSET', BIDS, name, cjson.encode(bid))
  if waits() then return end
  set('arrivals', num('arrivals') + 1)
  write('ZADD', WAITING, priority(num('arrivals')), name)
  set('last_join', now, 'last_joiner', name)
  if write('SREM', ABSENT, name) == 1 then write('SADD', BACK, name) end
  if is('settled') then grow() end
end

local function join()
  if is('closed') then return closed() end
  local why = get(excluded_field())
  if why then return {'refused', why} end
  local holder = call('HGET', NONCES, name)
  if holder and holder ~= nonce then
    local left = tonumber(call('ZSCORE', LEASES, name)) - now
    return {'held', cjson.decode(call('HGET', BIDS, name)).addr .. ' (agent ' .. holder .. ')', left}
  end
  give_up_seat()
  if is('closed') then return closed() end
  keep('state', 'open')
  learn(carried)
  if claims_seat() then write('HSETNX', SLOTS, name, claim.slot) end -- a server that had forgotten it
  prolong()
  if not seated() then enter() end
  progress()
  return place()
end

tick()
local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
return finish({last and last[1] or '0-0', join()})
