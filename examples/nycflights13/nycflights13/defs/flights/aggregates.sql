-- One day of flights, summed up per destination, carrier and origin.
--
-- Sees `events`: the flights scheduled on this day (UTC), each in its newest version.
-- Only counts and whole-number sums: adding them up again gives the same bits in any order, and
-- shares and averages are taken from them where they are needed (features.sql).
-- All four are listed in `aggregates.label_columns`: what became of a flight is known only when it
-- has been recorded.

SELECT
    dest AS region,
    carrier,
    origin,
    count(dep_delay) AS departed,
    CAST(sum(CAST(dep_delay AS BIGINT)) AS BIGINT) AS departure_delay_minutes,
    count(arrived_late) AS arrived,
    count(*) FILTER (WHERE arrived_late) AS arrived_late
FROM events
GROUP BY dest, carrier, origin
