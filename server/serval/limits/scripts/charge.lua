-- Count use of budgets that was admitted while Redis was away. The first charge of an id counts, so this may be
-- sent again.
local id, day, tokens, cost = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

if redis.call('SET', BOOKS .. ':charged:' .. id, '1', 'NX', 'PX', whole(DAY_MS)) then
  add_to_day(day, tokens, cost, 0, 0)
end
return 0
