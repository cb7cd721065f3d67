module allregions

go 1.26
