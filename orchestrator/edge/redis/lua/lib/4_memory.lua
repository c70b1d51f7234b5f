-- memory: what a server that has lost its memory, or has never had it, learns from the claims of those who call.
--
-- A round is known by its number, its token and its members. In one history the first two grow together; where they do not,
-- or where the members are others, two servers have gone on from a common past, and neither's round can stand.

-- Go back to the claimed round, which nobody here knows: its members bring their seats, or it ends in two leases' time.
-- Who has only heard of it makes the others wait for them, too: their workers may run on.
local function enter_restoring()
  write('DEL', SEATS, SLOTS, DONE, ABSENT, BACK)
  set('state', 'restoring', 'round', claim.round, 'token', claim.token, 'size', claim.size, 'hash', claim.hash,
    'restore_until', now + 2 * lease_ms)
  unset('why', 'scale_at', 'min_at', 'last_joiner', 'ignored')
end

-- Compare the claim with what is known here, and follow it where it is newer.
local function heed()
  if claim.round == 0 or is('closed') then return end
  local round, token = num('round'), num('token')
  if claim.round == round and claim.token == token and (claim.slot < 0 or claim.hash == get('hash')) then return end
  if claim.round < round and claim.token < token then return end -- stale, which its own command will be told
  local high_round, high_token = num('high_round'), num('high_token')
  local newer = claim.round > round and claim.token > token
  if newer and claim.size > 0 and claim.round >= high_round and claim.token >= high_token then return enter_restoring() end
  if newer then supersede('the server had fallen behind', nil, true)
  elseif claim.slot >= 0 then supersede('two servers had each gone on with this run', nil, true) end
  if claim.round > high_round or claim.token > high_token then
    keep('state', 'open')
    set('high_round', math.max(high_round, claim.round), 'high_token', math.max(high_token, claim.token))
  end
end

-- Whether the caller claims a seat in the round that stands here, or stood here last.
local function claims_seat()
  return claim.slot >= 0 and claim.round == num('round') and claim.token == num('token') and claim.hash == get('hash')
end

-- Take a member of the round that is being restored as one again, with the seat that it says it had.
local function readmit(base_rank)
  local holder = call('HGET', NONCES, name)
  if not (is('restoring') and claims_seat()) or holder and holder ~= nonce then return end
  write('HSET', NONCES, name, nonce)
  write('HSET', SEATS, name, claim.slot .. ':' .. base_rank)
  write('HSET', SLOTS, name, claim.slot)
  write('ZREM', WAITING, name)
  prolong()
end
