-- meeting: when a round is settled, who gets which seat, and when those who came late make a new one.

-- When the open round can be settled if nobody else comes; nil with too few. Remembers since when MIN are in.
-- Survivors are waited for, but not for ever; their time begins when the delay of their restart is over.
local function settle_at()
  local joined, absent = call('ZCARD', WAITING), call('SCARD', ABSENT)
  if joined < min then return get('min_at') and unset('min_at') end
  keep('min_at', now)
  if absent == 0 and (joined >= max or call('SCARD', BACK) > 0) then return now end
  local cap = math.max(num('min_at'), num('end_until')) + 10 * last_call_ms
  return absent > 0 and cap or math.min(cap, num('last_join') + last_call_ms)
end

-- When those who wait make a new round of a settled one below MAX; nil if never. A round that finishes is left alone.
local function scale_at()
  if call('ZCARD', WAITING) == 0 then return get('scale_at') and unset('scale_at') end -- the next is the first again
  local at = get('scale_at')
  if not at or num('size') >= max then return nil end
  if call('SCARD', DONE) > 0 or not free_left() then return nil end
  return tonumber(at)
end

-- Somebody waits for a settled round to grow: it does so a while after the first of them, for all at once.
local function grow()
  if num('size') < max then keep('scale_at', now + scale_up_ms) end
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
  write('DEL', SEATS, DONE, ABSENT, BACK)
  for slot = 0, size - 1 do
    local member = by_slot[slot]
    local bid = cjson.decode(call('HGET', BIDS, member))
    first = first or bid
    write('HSET', SEATS, member, slot .. ':' .. world)
    write('HSET', SLOTS, member, slot)
    write('ZREM', WAITING, member)
    roll[#roll + 1] = member .. '\t' .. bid.nproc .. '\n'
    world = world + bid.nproc
  end
  local slots = call('HGETALL', SLOTS) -- absent names forget the slots that others have now
  for i = 1, #slots, 2 do
    if tonumber(slots[i + 1]) < size and not has_seat(slots[i]) then write('HDEL', SLOTS, slots[i]) end
  end
  local high = math.max(num('round'), num('high_round'))
  local token = math.max(now, num('token') + 1, num('high_token') + 1)
  local why = get('why') or (high == 0 and 'first' or 'the server had lost its memory')
  set('state', 'settled', 'round', high + 1, 'token', token, 'size', size, 'world', world, 'addr', first.addr, 'port', first.port,
    'hash', redis.sha1hex(table.concat(roll)), 'seat_paid', num('charged'), 'seat_row', num('consecutive'), 'seat_why', why)
  unset('scale_at', 'min_at', 'last_joiner', 'why', 'restored', 'ignored')
  announce({'settled', high + 1})
end

-- When something becomes due without anybody's word: a scale-up, a settle, the end of a restoration.
local function next_at()
  if is('restoring') then return num('restore_until') end
  return is('settled') and scale_at() or is('open') and settle_at()
end

-- Do what has become due. Where that ends a round, the wait for the next one begins now, not with the next command.
local function progress()
  local at = next_at()
  if not at or at > now then return end
  if is('open') then return settle() end
  local back = call('HLEN', SEATS) .. ' of ' .. num('size') .. ' members came back'
  supersede(is('settled') and 'scale up' or 'the server had lost its memory, and ' .. back)
  progress()
end
