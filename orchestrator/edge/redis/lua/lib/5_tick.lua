-- tick: how every command begins and ends, and what it can say of the caller's round.

-- The server's clock went back, so no instant of ours may lie ahead of it.
local function rewind()
  unset('touched_ms')
  for _, field in ipairs({'min_at', 'last_join', 'scale_at', 'end_until', 'restore_until'}) do
    local latest = now + (field == 'end_until' and num('end_delay') or field == 'restore_until' and 2 * lease_ms or 0)
    if get(field) then set(field, math.min(num(field), latest)) end
  end
  for _, key in ipairs({CHARGES, FREE}) do
    for _, round in ipairs(call('ZRANGEBYSCORE', key, '(' .. now, '+inf')) do write('ZADD', key, now, round) end
  end
end

-- The start of every command. Leases never lapse together because the server was away or its clock was set; and nothing
-- falls due before the caller's claim is heeded, for what it knows may have been forgotten here.
local function tick()
  if get('state') and not is('closed') then
    local last = num('last_ms')
    if now < last then rewind() end
    if now < last or now - last > lease_ms * 2 / 3 then
      for _, member in ipairs(call('ZRANGE', LEASES, 0, -1)) do write('ZADD', LEASES, now + lease_ms, member) end
    end
  end
  heed()
  if get('state') and not is('closed') then
    heed_charges()
    lose(call('ZRANGEBYSCORE', LEASES, '-inf', now))
    progress()
  end
end

-- In how many ms the caller should come again: to renew, or because something falls due before that.
local function due_ms()
  local at = now + math.max(1, math.floor(lease_ms / 3))
  local leases = call('ZRANGE', LEASES, 0, 1, 'WITHSCORES')
  for i = 1, #leases, 2 do at = leases[i] == name and at or math.min(at, tonumber(leases[i + 1])) end
  local due = next_at()
  -- The quiet after the last join is the last joiner's to end; the others hear of it, or see it when they renew.
  if due and (stands() or call('SCARD', ABSENT) > 0 or get('last_joiner') == name) then at = math.min(at, due) end
  return math.max(1, at - now)
end

-- Where the caller, who waits, stands: 0 it will be in the coming round, 1 it stands by, 2 there are too many. Who of a
-- round that is being restored is dead, and leaves a place, is not known yet.
local function queue()
  if is('restoring') then return 0 end
  local ahead = call('ZRANK', WAITING, name) + (stands() and num('size') or call('SCARD', ABSENT))
  if ahead >= max + spares then return 2 end
  return (stands() or ahead >= max) and 1 or 0
end

-- Word to who waits, and of the last round that was settled: it may run on should this server forget it.
local function waiting(due, joined, where)
  local round, token = math.max(num('round'), num('high_round')), math.max(num('token'), num('high_token'))
  local ours = round == num('round') and token == num('token') and round > 0
  return {'waiting', due, joined, where, round, token, ours and num('size') or 0, ours and get('hash') or ''}
end

-- What a joined member gets: its seat, or word of how long it may wait.
local function place()
  if is('closed') then return closed() end
  if seated() then
    local r = call('HMGET', GROUP, 'round', 'token', 'size', 'world', 'hash', 'addr', 'port', 'seat_paid', 'seat_row', 'seat_why')
    local slot, base = call('HGET', SEATS, name):match('^(%d+):(%d+)$')
    return {'seat', tonumber(r[1]), tonumber(r[2]), tonumber(slot), tonumber(r[3]), tonumber(base), tonumber(r[4]), r[5],
      r[6], tonumber(r[7]), tonumber(r[8]), tonumber(r[9]), r[10], ledger()}
  end
  return waiting(due_ms(), call('ZCARD', WAITING), queue())
end

-- The fate of the claimed round, as far as it concerns the caller.
local function fate()
  if is('closed') then return closed() end
  if is('restoring') and claims_seat() then
    return {'restoring', due_ms(), known() and has_seat(name) and 1 or 0}
  end
  if not known() then return {'lapsed', 'node ' .. name .. ' is no member: its lease ran out, or the server lost its memory'} end
  if claims_seat() and seated() then return {'standing', due_ms()} end
  if claim.round > 0 and claim.round == num('end_round') then return ended() end
  return {'lapsed', 'the group is in round ' .. num('round') .. ', not in ' .. claim.round}
end

-- The end of every command: nothing of ours outlives its use. Who changes nothing prolongs the life of keys now and then.
local function finish(reply)
  if not get('state') or is('closed') then return reply end
  call('HSET', GROUP, 'last_ms', now)
  if changed or now - num('touched_ms') > ttl_ms / 8 then
    set('touched_ms', now)
    for _, key in ipairs(KEYS) do call('PEXPIRE', key, ttl_ms) end
  end
  return reply
end
