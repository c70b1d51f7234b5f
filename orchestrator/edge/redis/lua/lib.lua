-- lib: what every command shares: the caller, the clock, and the rules of a group. The loader puts it before each command.
--
-- Every command gets all keys of the group; they carry one hash tag, so that they share a slot of a cluster.
-- KEYS[1]   group    hash  state (open|settled|closed), round, token, size, world, hash, addr, port, charged, end_*, ...
-- KEYS[2]   leases   zset  name -> instant at which the member lapses (ms, server clock)
-- KEYS[3]   nonces   hash  name -> nonce of the agent process that holds the name
-- KEYS[4]   bids     hash  name -> JSON {nproc, addr, port}
-- KEYS[5]   waiting  zset  name -> priority in the coming round: a known slot, else after all of those, by arrival
-- KEYS[6]   absent   set   members of the round that ended, alive, not back yet
-- KEYS[7]   back     set   members of the round that ended which have joined again
-- KEYS[8]   seats    hash  name -> "slot:base_rank" in the settled round
-- KEYS[9]   slots    hash  name -> slot it had last; names beyond the settled round are kept while their slot is free
-- KEYS[10]  done     set   members of the settled round that have reported success
-- KEYS[11]  charges  zset  round -> instant at which its restart was charged
-- KEYS[12]  free     zset  round -> instant at which it ended without a charge
-- KEYS[13]  events   stream of {reply: JSON of settled, superseded, restart, closed, as replied, or {"drained", node, nonce}}
-- KEYS[14]  job      hash  {digest, job, role:NAME -> JSON of its rules}; the run's, shared by its groups
--
-- ARGV[1]   name        ARGV[2]  nonce
-- ARGV[3]   claim: round    ARGV[4] token    ARGV[5] slot    ARGV[6] size    ARGV[7] members hash    ARGV[8] charged
-- ARGV[9]   lease_ms    ARGV[10] ttl_ms of an open group    ARGV[11] min nodes    ARGV[12] max nodes
-- ARGV[13]  last_call_ms    ARGV[14] scale_up_ms    ARGV[15] free_max (-1: no bound)    ARGV[16] free_per_ms (0: for ever)
--
-- Replies that several commands share:
--   {"seat", round, token, slot, size, base_rank, world_size, hash, addr, port, charged, consecutive, why}
--   {"waiting", due_ms, joined, full 0|1}    {"standing", due_ms}    {"lapsed", why}
--   {"superseded", round, why, names of the lost, tabs between}
--   {"restart", round, charged 0|1, delay_ms left, remaining (-1: no bound), reason, cause JSON or ""}
--   {"closed", outcome, exit_code, reason, cause JSON or "", charged}

local call = redis.call
local GROUP, LEASES, NONCES, BIDS, WAITING, ABSENT, BACK = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local SEATS, SLOTS, DONE, CHARGES, FREE, EVENTS, JOB = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12], KEYS[13], KEYS[14]
local CLOSED_TTL_MS, EVENTS_KEPT, HUGE = 86400000, 256, 9007199254740992

local function text(value, limit, what)
  return #value <= limit and value or error('BADARG ' .. what .. ' is longer than ' .. limit .. ' bytes')
end

local function number(value, low, what)
  local n = tonumber(value)
  return n and n == math.floor(n) and n >= low and n <= HUGE and n or error('BADARG ' .. what .. ' is out of range')
end

local name, nonce = text(ARGV[1], 255, 'name'), text(ARGV[2], 255, 'nonce')
if name == '' or nonce == '' or name:find('%c') then error('BADARG name or nonce is empty or has control characters') end
local claim = {
  round = number(ARGV[3], 0, 'claim.round'), token = number(ARGV[4], 0, 'claim.token'),
  slot = number(ARGV[5], -1, 'claim.slot'), size = number(ARGV[6], 0, 'claim.size'),
  hash = text(ARGV[7], 64, 'claim.members_hash'), charged = number(ARGV[8], 0, 'claim.charged'),
}
local lease_ms, ttl_ms = number(ARGV[9], 1, 'lease_ms'), number(ARGV[10], 1, 'ttl_ms')
local min, max = number(ARGV[11], 1, 'min'), number(ARGV[12], 1, 'max')
local last_call_ms, scale_up_ms = number(ARGV[13], 0, 'last_call_ms'), number(ARGV[14], 0, 'scale_up_ms')
local free_max, free_per_ms = number(ARGV[15], -1, 'free_max'), number(ARGV[16], 0, 'free_per_ms')
if min > max then error('BADARG min is above max') end

local clock = call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function get(field) return call('HGET', GROUP, field) end
local function num(field) return tonumber(get(field) or 0) end
local function set(...) call('HSET', GROUP, ...) end
local function is(state) return get('state') == state end
local function known() return call('HGET', NONCES, name) == nonce end
local function seated() return is('settled') and call('HGET', SEATS, name) end
local function waits() return call('ZSCORE', WAITING, name) end
local function prolong() call('ZADD', LEASES, now + lease_ms, name) end

-- Tell everyone: members learn what happened from the stream, and from their next renewal if they missed it.
local function announce(reply)
  call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'reply', cjson.encode(reply))
end

local function closed()
  local r = call('HMGET', GROUP, 'outcome', 'exit_code', 'close_why', 'close_cause')
  return {'closed', r[1], tonumber(r[2]), r[3], r[4], num('charged')}
end

-- End the run. What only an open group needs goes; its record and its stream tell latecomers for a day.
local function close(outcome, exit_code, why, cause)
  set('state', 'closed', 'outcome', outcome, 'exit_code', exit_code, 'close_why', why, 'close_cause', cause)
  call('DEL', LEASES, NONCES, BIDS, WAITING, ABSENT, BACK, SEATS, SLOTS, DONE, CHARGES, FREE)
  announce(closed())
  for _, key in ipairs({GROUP, EVENTS, JOB}) do call('PEXPIRE', key, CLOSED_TTL_MS) end
end

-- How the last round that ended did so: superseded or restart.
local function ended()
  local r = call('HMGET', GROUP, 'end_kind', 'end_round', 'end_why', 'end_charged', 'end_delay', 'end_until', 'end_left',
    'end_cause', 'end_lost')
  if r[1] == 'superseded' then return {'superseded', tonumber(r[2]), r[3], r[9]} end
  local left = math.max(0, math.min(tonumber(r[5]), tonumber(r[6]) - now))
  return {'restart', tonumber(r[2]), tonumber(r[4]), left, tonumber(r[7]), r[3], r[8]}
end

-- How much of a sliding budget is in use; `floor` is what is known to be spent when the budget is for the whole run.
local function used(key, per_ms, floor)
  if per_ms == 0 then return math.max(call('ZCARD', key), floor) end
  call('ZREMRANGEBYSCORE', key, '-inf', now - per_ms)
  return call('ZCARD', key)
end

local function free_left() return free_max < 0 or used(FREE, free_per_ms, 0) < free_max end

-- Take one from the budget of uncharged ends, or close the run: a group that churns for ever helps nobody.
local function spend_free(why)
  if free_left() then return free_max < 0 or call('ZADD', FREE, now, get('round')) end
  close('failed', 1, 'restart.free is spent (' .. free_max .. ' uncharged restarts); ' .. why, '')
end

-- End the settled round; its members that are alive are expected back.
local function open_next(kind, why, next_why)
  call('DEL', ABSENT, BACK, DONE)
  for _, member in ipairs(call('HKEYS', SEATS)) do
    if call('ZSCORE', LEASES, member) then call('SADD', ABSENT, member) end
  end
  call('DEL', SEATS)
  call('HDEL', GROUP, 'scale_at', 'min_at', 'last_joiner')
  set('state', 'open', 'end_kind', kind, 'end_round', get('round'), 'end_why', why, 'why', next_why, 'last_join', now)
end

local function supersede(why, lost)
  if not is('settled') or not spend_free(why) then return end
  set('end_lost', table.concat(lost or {}, '\t', 1, math.min(#(lost or {}), 100)))
  open_next('superseded', why, why)
  announce(ended())
end

-- Record the decision to restart; it replaces a milder one of the same round. Whoever calls has paid for it.
local function restart(action, delay_ms, remaining, reason, cause, next_why)
  if is('settled') then open_next('restart', reason, next_why) end
  set('end_action', action, 'end_why', reason, 'end_charged', action == 'retry' and 1 or 0, 'end_delay', delay_ms,
    'end_until', now + delay_ms, 'end_left', remaining, 'end_cause', cause)
  announce(ended())
end

-- Charge the round that is ending to the budget: what remains (-1: no bound), or nil when nothing was left.
local function charge(budget_max, budget_per_ms)
  local spent = used(CHARGES, budget_per_ms, num('charged'))
  if budget_max >= 0 and spent >= budget_max then return nil end
  call('HINCRBY', GROUP, 'charged', 1)
  if budget_max < 0 then return -1 end
  call('ZADD', CHARGES, now, get('round'))
  return budget_max - spent - 1
end

-- Members are gone. Their slots stay remembered; a settled round that needed them ends.
local function lose(members, what)
  local settled, lost = is('settled'), {}
  for _, member in ipairs(members) do
    if settled and call('HEXISTS', SEATS, member) == 1 and call('SISMEMBER', DONE, member) == 0 then
      lost[#lost + 1] = member
    end
    for _, key in ipairs({LEASES, WAITING}) do call('ZREM', key, member) end
    for _, key in ipairs({NONCES, BIDS, SEATS}) do call('HDEL', key, member) end
    for _, key in ipairs({ABSENT, BACK}) do call('SREM', key, member) end
  end
  local shown = table.concat(lost, ', ', 1, math.min(#lost, 3)) .. (#lost > 3 and ' and ' .. #lost - 3 .. ' more' or '')
  if #lost > 0 then supersede(what or ('lost node' .. (#lost > 1 and 's ' or ' ') .. shown), lost) end
end

-- When the open round can be settled if nobody else comes; nil with too few. Remembers since when MIN are in.
-- Survivors are waited for, but not for ever; their time begins when the delay of their restart is over.
local function settle_at()
  local joined, absent = call('ZCARD', WAITING), call('SCARD', ABSENT)
  if joined < min then return call('HDEL', GROUP, 'min_at') and nil end
  call('HSETNX', GROUP, 'min_at', now)
  if absent == 0 and (joined >= max or call('SCARD', BACK) > 0) then return now end
  local cap = math.max(num('min_at'), num('end_until')) + 10 * last_call_ms
  return absent > 0 and cap or math.min(cap, num('last_join') + last_call_ms)
end

-- When those who wait make a new round of a settled one below MAX; nil if never. A round that finishes is left alone.
local function scale_at()
  if call('ZCARD', WAITING) == 0 then return call('HDEL', GROUP, 'scale_at') and nil end -- the next is the first again
  local at = get('scale_at')
  if not at or num('size') >= max then return nil end
  if call('SCARD', DONE) > 0 or not free_left() then return nil end
  return tonumber(at)
end

-- Who sits where: known slots below the new size are kept, newcomers fill the holes, the highest slots move down.
local function seating()
  local chosen = call('ZRANGE', WAITING, 0, max - 1)
  local by_slot, rest, movers, at = {}, {}, {}, 1
  for _, member in ipairs(chosen) do
    local slot = tonumber(call('HGET', SLOTS, member) or -1)
    if slot < 0 then rest[#rest + 1] = member
    elseif slot < #chosen and not by_slot[slot] then by_slot[slot] = member
    else movers[#movers + 1] = member end
  end
  for _, member in ipairs(movers) do rest[#rest + 1] = member end
  for slot = 0, #chosen - 1 do
    if not by_slot[slot] then by_slot[slot], at = rest[at], at + 1 end
  end
  return by_slot, #chosen
end

local function settle()
  local by_slot, size = seating()
  local world, roll, first = 0, {}, nil
  call('DEL', SEATS, DONE, ABSENT, BACK)
  for slot = 0, size - 1 do
    local member = by_slot[slot]
    local bid = cjson.decode(call('HGET', BIDS, member))
    first = first or bid
    call('HSET', SEATS, member, slot .. ':' .. world)
    call('HSET', SLOTS, member, slot)
    call('ZREM', WAITING, member)
    roll[#roll + 1] = member .. '\t' .. bid.nproc .. '\n'
    world = world + bid.nproc
  end
  local slots = call('HGETALL', SLOTS) -- absent names forget the slots that others have now
  for i = 1, #slots, 2 do
    if tonumber(slots[i + 1]) < size and call('HEXISTS', SEATS, slots[i]) == 0 then call('HDEL', SLOTS, slots[i]) end
  end
  local high = math.max(num('round'), num('high_round'))
  local token = math.max(now, num('token') + 1, num('high_token') + 1)
  local why = get('why') or (high == 0 and 'first' or 'the server had lost its memory')
  set('state', 'settled', 'round', high + 1, 'token', token, 'size', size, 'world', world, 'addr', first.addr, 'port', first.port,
    'hash', redis.sha1hex(table.concat(roll)), 'seat_paid', num('charged'), 'seat_row', num('consecutive'), 'seat_why', why)
  call('HDEL', GROUP, 'scale_at', 'min_at', 'last_joiner', 'why')
  announce({'settled', high + 1})
end

local function next_at() return is('settled') and scale_at() or is('open') and settle_at() end

-- Do what has become due: a scale-up, a settle.
local function progress()
  local at = next_at()
  if not at or at > now then return end
  if is('settled') then supersede('scale up') else settle() end
end

-- The server's clock went back, so no instant of ours may lie ahead of it.
local function rewind()
  for _, field in ipairs({'min_at', 'last_join', 'scale_at', 'end_until'}) do
    local latest = field == 'end_until' and now + num('end_delay') or now
    if get(field) then set(field, math.min(num(field), latest)) end
  end
  for _, key in ipairs({CHARGES, FREE}) do
    for _, round in ipairs(call('ZRANGEBYSCORE', key, '(' .. now, '+inf')) do call('ZADD', key, now, round) end
  end
end

-- The start of every command. Leases never lapse together because the server was away or its clock was set.
local function tick()
  if not get('state') or is('closed') then return end
  local last = num('last_ms')
  if now < last then rewind() end
  if now < last or now - last > lease_ms * 2 / 3 then
    for _, member in ipairs(call('ZRANGE', LEASES, 0, -1)) do call('ZADD', LEASES, now + lease_ms, member) end
  end
  lose(call('ZRANGEBYSCORE', LEASES, '-inf', now))
  progress()
end

-- In how many ms the caller should come again: to renew, or because something falls due before that.
local function due_ms()
  local at = now + math.max(1, math.floor(lease_ms / 3))
  local leases = call('ZRANGE', LEASES, 0, 1, 'WITHSCORES')
  for i = 1, #leases, 2 do at = leases[i] == name and at or math.min(at, tonumber(leases[i + 1])) end
  local due = next_at()
  -- The quiet after the last join is the last joiner's to end; the others hear of it, or see it when they renew.
  if due and (is('settled') or call('SCARD', ABSENT) > 0 or get('last_joiner') == name) then at = math.min(at, due) end
  return math.max(1, at - now)
end

-- What a joined member gets: its seat, or word of how long it may wait.
local function place()
  if is('closed') then return closed() end
  local seat = seated()
  if seat then
    local r = call('HMGET', GROUP, 'round', 'token', 'size', 'world', 'hash', 'addr', 'port', 'seat_paid', 'seat_row', 'seat_why')
    local slot, base = seat:match('^(%d+):(%d+)$')
    return {'seat', tonumber(r[1]), tonumber(r[2]), tonumber(slot), tonumber(r[3]), tonumber(base), tonumber(r[4]), r[5],
      r[6], tonumber(r[7]), tonumber(r[8]), tonumber(r[9]), r[10]}
  end
  local ahead = call('ZRANK', WAITING, name) + (is('settled') and num('size') or call('SCARD', ABSENT))
  return {'waiting', due_ms(), call('ZCARD', WAITING), ahead >= max and 1 or 0}
end

-- The fate of the claimed round, as far as it concerns the caller.
local function fate()
  if is('closed') then return closed() end
  if not known() then return {'lapsed', 'node ' .. name .. ' is no member: its lease ran out, or the server lost its memory'} end
  if claim.round == num('round') and seated() then return {'standing', due_ms()} end
  if claim.round > 0 and claim.round == num('end_round') then return ended() end
  return {'lapsed', 'the group is in round ' .. num('round') .. ', not in ' .. claim.round}
end

-- The end of every command: nothing of ours outlives its use.
local function finish(reply)
  if get('state') and not is('closed') then
    set('last_ms', now)
    for _, key in ipairs(KEYS) do call('PEXPIRE', key, ttl_ms) end
  end
  return reply
end
