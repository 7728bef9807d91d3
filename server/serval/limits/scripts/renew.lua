-- Ledger.renew: renew the leases of these reservations.
local lease_ms = tonumber(ARGV[1])
local now = moment(ARGV[2], ARGV[3])

for number = 4, #ARGV do
  local expires = tonumber(redis.call('ZSCORE', OPEN, ARGV[number]))
  local reservation = redis.call('HGET', RESERVATIONS, ARGV[number])
  if expires and expires > now and reservation then
    redis.call('ZADD', OPEN, whole(now + lease_ms), ARGV[number])
    local _, _, _, _, requests = unpacked(reservation)
    for place = 1, requests do
      redis.call('ZADD', RUNNING, 'XX', whole(now + lease_ms), member(ARGV[number], place))
    end
  end
end
keep_reservations(lease_ms)
-- Never shorten its life.
if redis.call('PTTL', BUCKETS) < lease_ms + KEPT_MS then
  redis.call('PEXPIRE', BUCKETS, whole(lease_ms + KEPT_MS))
end
return 0
