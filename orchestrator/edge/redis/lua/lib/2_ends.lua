-- ends: how rounds and runs end, and the budgets that bound it.

local CLOSED_TTL_MS, EVENTS_KEPT, LEDGER_SHOWN, LEDGER_KEPT = 86400000, 256, 100, 1000

-- Tell everyone: members learn what happened from the stream, and from their next renewal if they missed it.
local function announce(reply)
  write('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'reply', cjson.encode(reply))
end

local function closed()
  local r = call('HMGET', GROUP, 'outcome', 'exit_code', 'close_why', 'close_cause')
  return {'closed', r[1], tonumber(r[2]), r[3], r[4], num('charged')}
end

-- End the run. What only an open group needs goes; its record and its stream tell latecomers for a day.
local function close(outcome, exit_code, why, cause)
  set('state', 'closed', 'outcome', outcome, 'exit_code', exit_code, 'close_why', why, 'close_cause', cause)
  write('DEL', LEASES, NONCES, BIDS, WAITING, ABSENT, BACK, SEATS, SLOTS, DONE, CHARGES, FREE)
  announce(closed())
  for _, key in ipairs({GROUP, EVENTS, JOB}) do write('PEXPIRE', key, CLOSED_TTL_MS) end
end

-- How many members have said that their workers run, and that they are ready; of the round that stands.
local function ups()
  local round, started, ready = (get('ups') or ''):match('^(%d+):(%d+):(%d+)$')
  if tonumber(round) ~= num('round') then return {0, 0} end
  return {tonumber(started), tonumber(ready)}
end

-- How far the workers of all members have come: 0 settled, 1 running, 2 ready.
local function level()
  local counts, size = ups(), num('size')
  return counts[2] >= size and 2 or counts[1] >= size and 1 or 0
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
  write('ZREMRANGEBYSCORE', key, '-inf', now - per_ms)
  return call('ZCARD', key)
end

-- Restarts that count: a run that was reopened has its charges forgiven, though it goes on counting them.
local function spent() return num('charged') - num('forgiven') end

local function free_left() return free_max < 0 or used(FREE, free_per_ms, 0) < free_max end

-- Take one from the budget of uncharged ends, or close the run: a group that churns for ever helps nobody.
local function spend_free(why)
  if free_left() then return free_max < 0 or write('ZADD', FREE, now, get('round')) end
  close('failed', 1, 'restart.free is spent (' .. free_max .. ' uncharged restarts); ' .. why, '')
end

-- Charge the round that is ending to the budget: what remains (-1: no bound), or nil when nothing was left.
local function charge(budget_max, budget_per_ms)
  local before = used(CHARGES, budget_per_ms, spent())
  if budget_max >= 0 and before >= budget_max then return nil end
  set('charged', num('charged') + 1)
  write('ZADD', CHARGES, now, get('round'))
  if budget_max < 0 then write('ZREMRANGEBYRANK', CHARGES, 0, -LEDGER_KEPT - 1) end -- nobody counts them
  return budget_max < 0 and -1 or budget_max - before - 1
end

-- The newest charges, for members to carry: "forgiven round:age_ms round:age_ms ...".
local function ledger()
  local rows, words = call('ZREVRANGE', CHARGES, 0, LEDGER_SHOWN - 1, 'WITHSCORES'), {get('forgiven') or '0'}
  for i = 1, #rows, 2 do words[#words + 1] = rows[i] .. ':' .. string.format('%d', math.max(0, now - tonumber(rows[i + 1]))) end
  return table.concat(words, ' ')
end

-- Unite what is known of charges with what a caller carries; a round is charged once, whoever tells of it.
local function learn(carried)
  local forgiven = tonumber(carried:match('^%d+') or 0)
  if forgiven >= num('forgiven') then -- what was charged before a run was reopened is no news
    if forgiven > num('forgiven') then set('forgiven', forgiven) end
    for round, age_ms in carried:gmatch('(%d+):(%d+)') do write('ZADD', CHARGES, 'NX', now - tonumber(age_ms), round) end
  end
  local charged = math.max(claim.charged, call('ZCARD', CHARGES) + num('forgiven'))
  if charged > num('charged') then set('charged', charged) end
end

-- End the round that stands; its members that are alive are expected back.
local function open_next(kind, why, next_why)
  write('DEL', ABSENT, BACK, DONE)
  for _, member in ipairs(call('HKEYS', SEATS)) do
    if call('ZSCORE', LEASES, member) then write('SADD', ABSENT, member) end
  end
  write('DEL', SEATS)
  unset('scale_at', 'min_at', 'last_joiner', 'restore_until')
  set('state', 'open', 'end_kind', kind, 'end_round', get('round'), 'end_why', why, 'why', next_why, 'last_join', now)
end

-- End it although nobody failed; `unpaid`: nobody is known to be interrupted by it.
local function supersede(why, lost, unpaid)
  if not stands() or not (unpaid or spend_free(why)) then return end
  set('end_lost', table.concat(lost or {}, '\t', 1, math.min(#(lost or {}), 100)))
  open_next('superseded', why, why)
  announce(ended())
end

-- Record the decision to restart; it replaces a milder one of the same round. Whoever calls has paid for it.
local function restart(action, delay_ms, remaining, reason, cause, next_why)
  if stands() then open_next('restart', reason, next_why) end
  set('end_action', action, 'end_why', reason, 'end_charged', action == 'retry' and 1 or 0, 'end_delay', delay_ms,
    'end_until', now + delay_ms, 'end_left', remaining, 'end_cause', cause)
  announce(ended())
end

-- Members are gone. Their slots stay remembered; a round that needed them ends.
local function lose(members, what)
  local lost = {}
  for _, member in ipairs(members) do
    if has_seat(member) and call('SISMEMBER', DONE, member) == 0 then lost[#lost + 1] = member end
    for _, key in ipairs({LEASES, WAITING}) do write('ZREM', key, member) end
    for _, key in ipairs({NONCES, BIDS, SEATS}) do write('HDEL', key, member) end
    write('HDEL', GROUP, 'up:' .. member)
    for _, key in ipairs({ABSENT, BACK}) do write('SREM', key, member) end
  end
  local shown = table.concat(lost, ', ', 1, math.min(#lost, 3)) .. (#lost > 3 and ' and ' .. #lost - 3 .. ' more' or '')
  if #lost > 0 then supersede(what or ('lost node' .. (#lost > 1 and 's ' or ' ') .. shown), lost) end
end
