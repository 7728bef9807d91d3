-- Ledger.renew: renew the leases of these reservations.
local lease_ms = tonumber(ARGV[1])
local now = moment(ARGV[2], ARGV[3])

for number = 4, #ARGV do
  local expires = tonumber(redis.call('ZSCORE', OPEN, ARGV[number]))
  if expires and expires > now then
    redis.call('ZADD', OPEN, whole(now + lease_ms), ARGV[number])
  end
end
keep_reservations(lease_ms)
-- Never shorten its life.
if redis.call('PTTL', BUCKETS) < lease_ms + KEPT_MS then
  redis.call('PEXPIRE', BUCKETS, whole(lease_ms + KEPT_MS))
end
return 0
