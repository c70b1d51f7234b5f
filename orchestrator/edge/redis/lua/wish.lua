-- wish: what an operator, who is no member, asks of the group. A wish is granted once, however often it is sent.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, whose nonce names the wish, and the group's rules; there is no claim
-- ARGV[21]   kind: stop (end the run) | restart (begin a new round, uncharged) | drain (have a node leave)
-- ARGV[22]   node, for drain    ARGV[23] why, for people; "" if there is no more to say
-- returns    {"granted", members alive without a drained node, min} | {"refused", why} | closed

local kind, node, reason = ARGV[21], text(ARGV[22], 255, 'node'), text(ARGV[23], 1024, 'why')

local function granted()
  set('wish', nonce)
  local leaves = kind == 'drain' and call('ZSCORE', LEASES, node) and 1 or 0
  return {'granted', call('ZCARD', LEASES) - leaves, min}
end

-- What is wished is a restart without a charge, and those are bounded; a wish shall not be what ends the run.
local function renew_round(why)
  if not free_left() then return {'refused', 'restart.free is spent (' .. free_max .. ' uncharged restarts)'} end
  supersede(why)
  progress() -- who waits, and for how long, begins now
  return granted()
end

local GRANT = {}

function GRANT.stop()
  close('stopped', 143, 'stop wished', '') -- 128 + SIGTERM, as if every agent had been sent it
  return closed()
end

function GRANT.restart()
  if not is('settled') then return {'refused', 'no round is settled: the group is about to meet anyway'} end
  return renew_round(reason ~= '' and reason or 'restart wished')
end

function GRANT.drain()
  local holder = call('HGET', NONCES, node)
  if not holder then return {'refused', 'no agent named ' .. node .. ' takes part'} end
  local missed = stands() and has_seat(node) and call('SISMEMBER', DONE, node) == 0
  if missed and not free_left() then return renew_round() end
  announce({'drained', node, holder}) -- first, so that its agent does not join the round that follows
  return missed and renew_round('node ' .. node .. ' is drained') or granted()
end

local function decide()
  if not GRANT[kind] then error('BADARG kind is none of stop, restart, drain') end
  if not get('state') then return {'refused', 'the group has not met yet'} end
  if is('closed') then return closed() end
  return get('wish') == nonce and granted() or GRANT[kind]()
end

tick()
return finish(decide())
