-- caller: the keys of a group, who calls with which claim and rules, and the clock. The loader puts it before each command.
--
-- Every command gets all keys of the group; they carry one hash tag, so that they share a slot of a cluster.
-- KEYS[1]   group    hash  state (open|settled|restoring|closed), round, token, size, world, hash, addr, port, charged, ...
-- KEYS[2]   leases   zset  name -> instant at which the member lapses (ms, server clock)
-- KEYS[3]   nonces   hash  name -> nonce of the agent process that holds the name
-- KEYS[4]   bids     hash  name -> JSON {nproc, addr, port}
-- KEYS[5]   waiting  zset  name -> priority in the coming round: a known slot, else after all of those, by arrival
-- KEYS[6]   absent   set   members of the round that ended, alive, not back yet
-- KEYS[7]   back     set   members of the round that ended which have joined again
-- KEYS[8]   seats    hash  name -> "slot:base_rank" in the settled round, or in that which is being restored; once the group is
--                          closed, of those who have not left yet
-- KEYS[9]   slots    hash  name -> slot it had last; names beyond the settled round are kept while their slot is free
-- KEYS[10]  done     set   members of the settled round that have reported success
-- KEYS[11]  charges  zset  what was restarted -> instant at which that was charged. ROUND, or ROUND/SLOT/PART/INCARNATION of
--                          a local rank or "all" of a slot; #N after it: to the own budget of rule N, not to restart.budget
-- KEYS[12]  free     zset  the same, or a round that was superseded -> instant at which it ended without a charge
-- KEYS[13]  events   stream of {reply: JSON of settled, superseded, restart, closed, as replied, of {"drained", node, nonce}, or
--                    of {"emptied"}: it is closed, and all members have left}
-- KEYS[14]  gaps     hash  limit -> "longest_ms second_ms count" of the gaps that watchdogs have seen in the run
-- KEYS[15]  job      hash  {digest, job, role:NAME -> JSON of its rules}; the run's, shared by its groups
--
-- ARGV[1]   name        ARGV[2]  nonce
-- ARGV[3]   claim: round    ARGV[4] token    ARGV[5] slot (-1: only heard of)    ARGV[6] size    ARGV[7] members hash
-- ARGV[8]   claim: charged    ARGV[9] lease_ms    ARGV[10] ttl_ms of an open group    ARGV[11] min nodes    ARGV[12] max
-- ARGV[13]  last_call_ms    ARGV[14] scale_up_ms    ARGV[15] free_max (-1: no bound)    ARGV[16] free_per_ms (0: for ever)
-- ARGV[17]  spares
-- ARGV[18]  claim: forgiven charges    ARGV[19] of the others: charged to rules' own budgets
-- ARGV[20]  claim: the highest step that the run got to, and 1; 0: nobody has said
--
-- A ledger is what members carry of charges: "head id:age_ms id:age_ms ...", newest first. Its head is "forgiven,apart,
-- stalled,paid": apart as in ARGV[19]; so many restarts in a row had made no progress when the last one was charged (-1: none
-- was charged yet), by when the run had got to paid, as in ARGV[20].
--
-- Replies that several commands share:
--   {"seat", round, token, slot, size, base_rank, world_size, hash, addr, port, charged, consecutive, why, ledger}
--   {"waiting", due_ms, joined, place 0|1|2, round, token, size, hash}: in the coming round, standing by, or one too many;
--       the last round that was settled, with size 0 where its members are not known here
--   {"standing", due_ms}    {"lapsed", why}
--   {"restoring", due_ms, back 0|1}: the server has lost its memory; back: it has the caller's seat again
--   {"superseded", round, why, names of the lost, tabs between}
--   {"restart", round, charged 0|1, delay_ms left, remaining (-1: no bound), reason, cause JSON or "", id of the charge, head}
--   {"closed", outcome, exit_code, reason, cause JSON or "", charged}

local call = redis.call
local GROUP, LEASES, NONCES, BIDS, WAITING, ABSENT, BACK = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7]
local SEATS, SLOTS, DONE, CHARGES, FREE = KEYS[8], KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local EVENTS, GAPS, JOB = KEYS[13], KEYS[14], KEYS[15]
local HUGE = 9007199254740992

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
  forgiven = number(ARGV[18], 0, 'claim.forgiven'), apart = number(ARGV[19], 0, 'claim.apart'),
  step = number(ARGV[20], 0, 'claim.step'),
}
local lease_ms, ttl_ms = number(ARGV[9], 1, 'lease_ms'), number(ARGV[10], 1, 'ttl_ms')
local min, max = number(ARGV[11], 1, 'min'), number(ARGV[12], 1, 'max')
local last_call_ms, scale_up_ms = number(ARGV[13], 0, 'last_call_ms'), number(ARGV[14], 0, 'scale_up_ms')
local free_max, free_per_ms = number(ARGV[15], -1, 'free_max'), number(ARGV[16], 0, 'free_per_ms')
local spares = number(ARGV[17], 0, 'spares')
if min > max then error('BADARG min is above max') end

local clock = call('TIME')
local now = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

-- Every change goes through here, but for what only prolongs: whoever changes something sees to the life of all keys.
local changed = false
local function write(...)
  changed = true
  return call(...)
end

-- The group's record is read once; long texts, and what few commands need, only when it is asked for.
local KEPT = {
  'state', 'round', 'token', 'size', 'hash', 'charged', 'forgiven', 'high_round', 'high_token', 'last_ms', 'touched_ms',
  'end_round', 'end_until', 'end_delay', 'last_join', 'last_joiner', 'min_at', 'scale_at', 'restore_until', 'why',
  'apart', 'step',
}
local record = {}
for i, value in ipairs(call('HMGET', GROUP, unpack(KEPT))) do record[KEPT[i]] = value end

local function get(field)
  if record[field] == nil then record[field] = call('HGET', GROUP, field) end
  return record[field]
end

local function num(field) return tonumber(get(field) or 0) end

local function set(...)
  local fields = {...}
  for i = 1, #fields, 2 do record[fields[i]] = fields[i + 1] end
  write('HSET', GROUP, ...)
end

local function keep(field, value) return get(field) or set(field, value) end -- unless it is there already

local function unset(...)
  for _, field in ipairs({...}) do record[field] = false end
  write('HDEL', GROUP, ...)
end

local function is(state) return get('state') == state end
local function stands() return is('settled') or is('restoring') end
local function known() return call('HGET', NONCES, name) == nonce end
local function has_seat(member) return call('HEXISTS', SEATS, member) == 1 end
local function seated() return is('settled') and has_seat(name) end
local function waits() return call('ZSCORE', WAITING, name) end
local function excluded_field() return 'excluded:' .. name end -- why this name may take part no more
local function prolong() call('ZADD', LEASES, now + lease_ms, name) end
