-- publish: record the job of a run, and the rules of a role, for those who come later. The first job holds for all.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   role    ARGV[22] digest of the job    ARGV[23] job, JSON; "" to ask first whether it is there
-- ARGV[24]   budget_max (-1: no bound)    ARGV[25] budget_per_ms (0: the whole run)
-- ARGV[26]   reopen 0|1: continue a run that has failed or was stopped, with this job, and its charges forgiven
-- returns    {"published"} | {"unpublished"} (say it again, with the job) | {"differs", job}

local role, digest, job = text(ARGV[21], 255, 'role'), text(ARGV[22], 64, 'digest'), text(ARGV[23], 1048576, 'job')
local reopens = ARGV[26] == '1'
local rules = {
  lease_ms = lease_ms, ttl_ms = ttl_ms, min = min, max = max, last_call_ms = last_call_ms, scale_up_ms = scale_up_ms,
  spares = spares, free_max = free_max, free_per_ms = free_per_ms,
  budget_max = number(ARGV[24], -1, 'budget_max'), budget_per_ms = number(ARGV[25], 0, 'budget_per_ms'),
}

local function reopen()
  forgive(num('charged'))
  set('state', 'open', 'why', 'reopened', 'consecutive', 0, 'stalled', -1)
  write('DEL', SEATS, NONCES)
  unset('outcome', 'exit_code', 'close_why', 'close_cause', 'min_at', 'last_joiner', 'scale_at', 'restore_until')
  write('DEL', JOB)
end

local function publish()
  if reopens and is('closed') and get('outcome') ~= 'succeeded' then
    if job == '' then return {'unpublished'} end
    reopen()
  end
  local known = call('HGET', JOB, 'digest')
  if is('closed') then return {'published'} end -- whoever comes now is told the outcome, whatever it brings
  if known and known ~= digest then return {'differs', call('HGET', JOB, 'job')} end
  if not known and job == '' then return {'unpublished'} end
  if not known then write('HSET', JOB, 'digest', digest, 'job', job) end
  write('HSET', JOB, 'role:' .. role, cjson.encode(rules))
  write('PEXPIRE', JOB, ttl_ms) -- the group need not be there yet
  return {'published'}
end

tick()
return finish(publish())
