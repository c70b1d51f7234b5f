-- look: where the group stands, for those of its run who are no members. It changes nothing.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller; neither claim nor rules are looked at
-- returns    {the stream's last id, round that stands or 0, level of its workers 0|1|2, see up; outcome or {},
--            whether it is closed and all members have left: 0|1}

local last = call('XREVRANGE', EVENTS, '+', '-', 'COUNT', 1)[1]
return {last and last[1] or '0-0', stands() and num('round') or 0, stands() and level() or 0, is('closed') and closed() or {},
  is('closed') and call('HLEN', SEATS) == 0 and 1 or 0}
