-- status: the group as it stands, for people and tools. It changes nothing, so a lease that ran out is still shown.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller and the group's rules; the claim is not looked at
-- ARGV[21]   budget_max (-1: no bound)    ARGV[22] budget_per_ms (0: the whole run)
-- returns    {"status", state or "", round, size, world, why, charged, restarts left (-1: no bound), uncharged restarts
--            left (-1: no bound), members, waiting, the last round's end or {}, outcome or {}}
--            members: {name, slot, base_rank, nproc, addr, port, lease_ms left, reported success 0|1}, by slot
--            waiting: {name, nproc, addr, port, lease_ms left}, in the order of the coming round

local budget = {max = number(ARGV[21], -1, 'budget_max'), per_ms = number(ARGV[22], 0, 'budget_per_ms'), rule = ''}

local function free()
  if free_max < 0 then return -1 end
  return math.max(0, free_max - call('ZCOUNT', FREE, free_per_ms > 0 and '(' .. now - free_per_ms or '-inf', '+inf'))
end

local function bid_of(member) return cjson.decode(call('HGET', BIDS, member) or '{"nproc":0,"addr":"","port":0}') end
local function lease_of(member) return (tonumber(call('ZSCORE', LEASES, member)) or now) - now end

local function members()
  local found, seats = {}, call('HGETALL', SEATS)
  for i = 1, #seats, 2 do
    local member, bid = seats[i], bid_of(seats[i])
    local slot, base = seats[i + 1]:match('^(%d+):(%d+)$')
    found[#found + 1] = {member, tonumber(slot), tonumber(base), bid.nproc, bid.addr, bid.port, lease_of(member),
      call('SISMEMBER', DONE, member)}
  end
  table.sort(found, function(one, other) return one[2] < other[2] end)
  return found
end

local function waiting()
  local found = {}
  for _, member in ipairs(call('ZRANGE', WAITING, 0, -1)) do
    local bid = bid_of(member)
    found[#found + 1] = {member, bid.nproc, bid.addr, bid.port, lease_of(member)}
  end
  return found
end

local function status()
  local why = get(is('settled') and 'seat_why' or is('closed') and 'close_why' or 'why')
  return {'status', get('state') or '', num('round'), num('size'), num('world'), why or '', num('charged'),
    left(budget), free(), members(), waiting(),
    get('end_kind') and ended() or {}, is('closed') and closed() or {}}
end

return status()
